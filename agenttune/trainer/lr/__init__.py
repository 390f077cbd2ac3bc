"""The learning rate under any schedule: read, changed, planned anew, and predicted to the end."""
