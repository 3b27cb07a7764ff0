"""What is asked, and what full marks are: skills, topics, queries, prompts, points. Pure: no network, no torch, no state."""
