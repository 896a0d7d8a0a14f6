// The tasks of `pool` and `moments`: a thread walks down COLUMNS columns in a part of a plane's rows.
// Bank conflicts decide which tasks neighbouring threads take: those of one plane or, with BY_PLANES, of several.
#include "maps.cuh"

struct Task {
    int plane, part, first;  // first column
    DEVICE Task(int number, int planes, int parts, int across) {
        const int outer = number / (BY_PLANES ? planes : across), inner = number - outer * (BY_PLANES ? planes : across);
        const int of_part = BY_PLANES ? outer / across : (parts == 1 ? outer : outer / parts);
        plane = BY_PLANES ? inner : of_part;
        part = BY_PLANES ? of_part : outer - of_part * parts;
        first = (BY_PLANES ? outer - of_part * across : inner) * COLUMNS;
    }
};
