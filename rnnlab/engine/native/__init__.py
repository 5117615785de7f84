"""The backend `native`: a chunk of time as C++ that is generated from a cell's step, for CPUs.

The same traces that the other backends run (`chain`, `stages`) become loops over rows and columns, and a product is a
few lines of `runtime.h`, so that a step is one pass over memory that stays in a core's cache. Compiled when a cell is
first run, by the compiler at hand, and kept for later.

    rules      operations of a step in C++
    emit       stages of a step as loops
    program    a step and its pullback as two halves, and where their variables come from
    multiply, forward, backward, source   the functions around them
    library    compiles and registers them
    chunks     calls them in the place of the fused backend's inner loops
"""
