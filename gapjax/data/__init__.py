"""Data: the embedded digits, any TFDS data set, augmentation on device."""
