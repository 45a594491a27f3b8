"""The bundled checkpoint: a small VGG without BatchNorm, trained on handwritten digits, with its images.

``digits_vgg11`` builds the architecture and holds its preprocessing, ``digits_vgg11.safetensors`` is the trained state,
``digits/train`` has images to calibrate on and ``digits/val`` the whole held-out split. ``README.md`` is the card, and
``train_digits_vgg11.py`` makes all of these files again.
"""
