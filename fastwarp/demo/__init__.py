"""`fastwarp demo`: what the command runs, what it times, and the plain torch that it is compared with.

The benchmarks compare with the same plain torch. Importing this package imports nothing: matplotlib, Pillow, rich and
scikit-image, which the demos need, are an extra.
"""
