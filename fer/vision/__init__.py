"""Decoding of image files, and detection of faces that are cropped as in FER2013."""
