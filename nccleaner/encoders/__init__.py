"""Frozen encoders behind one small interface: images, or captions, in; one feature for each out."""
