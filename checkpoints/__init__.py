"""The bundled checkpoints: two VGGs trained without BatchNorm, one of them with its images.

``digits_vgg11`` builds the architecture and holds its preprocessing, ``digits_vgg11.safetensors`` is the trained state,
``digits/train`` has images to calibrate on and ``digits/val`` the whole held-out split. ``README.md`` is the card, and
``train_digits_vgg11.py`` makes all of these files again.

``cifar10_vgg16`` and its files are a VGG-16 at a quarter of its width, trained on CIFAR-10; ``cifar10_vgg16.md`` is its
card, and the images are not bundled.
"""
