"""The small pages on which people decide: the local page, the page behind a signed link; HTML without scripts.

Whatever comes from a run is text in them and nothing else. They know the control interface and the approval's facts.
"""
