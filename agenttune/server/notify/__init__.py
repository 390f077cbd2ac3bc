"""Telling people of what is news in the logs, in a thread of its own: its words, and the channels it is sent by."""
