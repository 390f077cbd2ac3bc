"""Who talks to the server, and what they may do: hosts, origins, tokens, cookies, roles.

Checked before any route runs. Knows `control/` for tokens, and nothing of what the routes do.
"""
