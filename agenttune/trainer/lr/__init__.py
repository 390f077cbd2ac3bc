"""The learning rate under whatever schedule drives it: read, moved, planned anew, and foretold to the end."""
