"""What is done with a picture once it is painted: upscaling, details, backgrounds, the check for nudity, marks."""
