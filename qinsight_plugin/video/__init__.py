"""Video as small as it may be: samples, target quality, ladders."""
