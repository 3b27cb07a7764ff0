"""What is asked, and what full marks are. Pure: no network, no torch, no state."""
