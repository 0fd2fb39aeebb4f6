"""Which of several models answers a request, and what happens when it does not."""
