"""Bytes to upright images, and photographs to faces framed as FER2013 frames them."""
