"""What the names in the shift benchmark's tables stand for, for people."""

SEGMENTORS = {
    "gan": "The paper's semi-supervised GAN, a quarter of the training patients annotated.",
    "strong": "All training patients annotated, trained on degraded images.",
    "hearts": "The demo's.",
    "brought": "A MONAI BasicUNet in TorchScript that was not trained by Maskmend: all training"
    " patients annotated, no image degraded; the guard was fitted to it afterwards.",
    "nnunet": "An nnU-Net in 2D, small, with all training patients annotated and its own"
    " augmentation, trained by nnU-Net; the guard was fitted to it afterwards.",
}
METHODS = {
    "components": "each structure's largest piece, its holes filled",
    "histogram": "the image's histogram standardised to those of training (Nyul and Udupa 2000)",
    "batch_norm": "batch norm statistics of the test image (Nado et al. 2020)",
    "entropy": "least entropy of the masks, TENT (Wang et al. 2021)",
    "rotation": "rotations as auxiliary task, TTT (Sun et al. 2020)",
    "dae": "a denoising autoencoder judges the masks (Karani et al. 2021), 50 steps",
    "paper": "the discriminator judges them as published (Valvano et al. 2021), 50 steps",
    "auto": "`paper`, and the number of steps chooses itself",
    "student": "one of the guard's noisy students alone (Xie et al. 2020)",
    "committee": "the mean of segmentor and students",
    "advised": "`committee`, where the segmentor keeps three fifths",
    "ours": "the guard, which chooses among these and more, or leaves the mask alone",
}
"""By name, in the order of `methods.METHODS`; no adaptation needs no words."""
