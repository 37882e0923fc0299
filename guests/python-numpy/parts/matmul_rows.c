#if !@IS_COMPLEX@ && !@IS_HALF@
    /* Weir: with rows that lie together, go along them. Every sum has the same terms in the same order as in
     * the loop below, so the result is the same; this one the compiler turns into vector instructions. */
    if (is2_p == (npy_intp)sizeof(@typ@) && os_p == (npy_intp)sizeof(@typ@)) {
        for (m = 0; m < dm; m++) {
            @typ@ *restrict sums = (@typ@ *)(op + m * os_m);
            memset(sums, 0, dp * sizeof(@typ@));
            for (n = 0; n < dn; n++) {
                const @typ@ factor = *(@typ@ *)(ip1 + m * is1_m + n * is1_n);
                const @typ@ *restrict row = (const @typ@ *)(ip2 + n * is2_n);
                for (p = 0; p < dp; p++) {
                    sums[p] += factor * row[p];
                }
            }
        }
        return;
    }
#endif
