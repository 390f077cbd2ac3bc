"""What people see of a run outside of a browser: the live terminal view, and the report.

Reads logs or a control; decides nothing. The words of an event are the same in both (`event_lines.py`).
"""
