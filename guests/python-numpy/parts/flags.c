/* The floating-point flags that WebAssembly lacks, as one variable that all of NumPy's modules share.
 *
 * NumPy tells its own errors through them: that a matrix is singular, that an integer was divided by zero. Without
 * them `inv` of a singular matrix would be zeros without a word. What the processor alone would notice (1.0 / 0.0)
 * is still not seen: the result is inf or nan as elsewhere, without a warning. compiler.py gives the constants. */
#ifdef FLAGS_LIVE_HERE
__attribute__((visibility("default"))) int weir_float_flags = 0;
#else
#define HIDDEN __attribute__((visibility("hidden")))

extern __attribute__((visibility("default"))) int weir_float_flags;

HIDDEN int feraiseexcept(int which)
{
    weir_float_flags |= which;
    return 0;
}

HIDDEN int feclearexcept(int which)
{
    weir_float_flags &= ~which;
    return 0;
}

HIDDEN int fetestexcept(int which) { return weir_float_flags & which; }
#endif
