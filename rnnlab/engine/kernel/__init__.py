"""The backend `kernel`: a sequence by one kernel forward and one back, in Pallas, for NVIDIA and AMD through Triton and
for a TPU through Mosaic.

Both kernels are made from the trace that the fused backend runs (`chain`), so from a cell's own `step`:
    axes       the columns of a step's arrays in segments that a kernel can hold
    rules      what a kernel makes of each operation of a step
    halves     which operations run in every step, and which once before or after the loop
    programs   a step and its pullback as two such programs
    blocks     the matrices in memory
    matrices   the products, with the matrices held on chip or read by tiles
    settings   platform and precision
    team       programs that share the columns of a step, and wait for each other
    launch     the blocks of a program
    memory     held or by tiles, and how many programs, by bytes
    forward, backward   the two kernels
    sequence   the derivative of a whole sequence
    backend    what `unroll` calls
Pallas is imported where a sequence is run by it, and not before.
"""
