"""Every parameter there is, and a profile checked as a whole before anything is spent."""
