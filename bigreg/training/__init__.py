"""Training of the networks on patches of chunked volumes.

    config       what a training's YAML file says
    sources      the images and pairs, and patches of them read out of core
    patches      which patches a step sees: a pure function of (seed, step, number in the batch)
    augment      geometry and contrast
    synthetic    smooth invertible deformations whose answer is known
    batch        what a network and its losses get
    losses, regularity, adversarial    by name, with weights
    trainer      the loop; checkpoint, log and validation are files of their own

All displacements are in voxels of the patch, (N, 3, z, y, x), as in `bigreg.networks`.
"""
