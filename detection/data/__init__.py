"""The detector's training data: photographs in memory, crops, changes of light and cover, and targets of anchors."""
