package softpipe

import (
	"unsafe"

	"antiphon/hwmodel"
)

// ahead holds the offsets in bytes of rows that a later loop over the vector will
// read: the cache is asked for all of them first, so that the misses overlap with
// each other and with the stages between.
type ahead [hwmodel.VectorSize]uint32

// large reports whether reading rows of a table ahead is worth it: the table does
// not stay in the cache anyway. Beyond 4 GiB offsets do not reach.
func large[R any](rows []R) bool {
	n := uint64(len(rows)) * uint64(unsafe.Sizeof(*new(R)))
	return n > 128<<10 && n < 1<<32
}

// fetch asks for the rows at the first n offsets.
func fetch[R any](a *ahead, rows []R, n int) {
	prefetch(unsafe.Pointer(unsafe.SliceData(rows)), (*[hwmodel.VectorSize]uint32)(a), min(n, len(a)))
}
