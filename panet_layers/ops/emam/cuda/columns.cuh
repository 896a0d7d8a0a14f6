// The tasks of `pool` and `moments`: a thread walks down COLUMNS columns in a part of a plane's rows.
// Bank conflicts decide which tasks neighbouring threads take: those of one plane or, `by_planes`, of several.
#include "maps.cuh"

struct Task {
    int plane, part, first;  // first column
    DEVICE Task(int number, bool by_planes, int planes, int parts, int across) {
        const int neighbours = by_planes ? planes : across, outer = number / neighbours;
        const int inner = number - outer * neighbours;
        const int of_part = by_planes ? outer / across : (parts == 1 ? outer : outer / parts);
        plane = by_planes ? inner : of_part;
        part = by_planes ? of_part : outer - of_part * parts;
        first = (by_planes ? outer - of_part * across : inner) * COLUMNS;
    }
};
