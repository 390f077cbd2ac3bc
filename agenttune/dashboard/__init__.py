"""The page on which a person sees runs and steers them: its sources in `web/`, its built files, and their serving.

`web/` is TypeScript and talks to the server's API only; `built/` is what is made of it, in the wheel and not in the
repository. Knows no other room.
"""
