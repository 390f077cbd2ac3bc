"""The small pages on which people decide: the local page, the page behind a signed link; HTML without scripts.

Text from a run is escaped in them. They know the control interface and the description of an approval.
"""
