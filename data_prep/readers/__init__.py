"""Readers of raw files: tables, JSON, archives, DICOM, images, and what the sets on MIMIC-CXR share."""
