"""`torch.library` operators: schemas, fakes, autograd, autocast and vmap, one file per family."""
