"""Which files show one picture: what descriptors find on photographs, and what finding takes at scale."""
