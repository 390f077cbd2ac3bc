"""The same tools for MCP clients, over a control of this machine or of a server."""
