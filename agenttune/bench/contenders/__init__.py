"""Who takes part: references, policies behind the gate, and what people would use instead; each a class in one file."""
