"""The paper's own numbers, to stand beside ours: mean and standard deviation."""

TABLE1 = {
    "UNet": (70.1, 13),
    "GAN": (70.0, 12),
    "+ smoothness": (70.9, 11),
    "+ fake anchors": (71.2, 10),
    "+ test-time training": (72.4, 10),
}
"""Points of Dice on ACDC."""

FIGURE3 = {
    ("acdc", "dice"): ((71.2, 10), (72.4, 10)),
    ("acdc", "iou"): ((62.7, 10), (63.8, 10)),
    ("acdc", "hausdorff_mm"): ((13.0, 10), (12.9, 9)),
    ("lvsc", "dice"): ((62.3, 13), (63.6, 11)),
    ("lvsc", "iou"): ((51.9, 13), (52.8, 11)),
    ("lvsc", "hausdorff_mm"): ((21.4, 13), (20.8, 10)),
}
"""Data set and metric: before, after."""

WEIGHTS_MB = 90
SECONDS_A_PATIENT = 10
"""On a TITAN Xp, at 50 steps."""
