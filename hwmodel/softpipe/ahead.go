package softpipe

import (
	"unsafe"

	"antiphon/hwmodel"
)

// cached is how large a table may be and still be left to the cache.
const cached = 128 << 10

// ask asks the cache for rows[index[k]>>shift] of the first n places k, which a
// later loop over the vector will read: so the misses overlap with each other and
// with the stages between. Of a place that is no longer live it asks for whatever
// row was there before, which costs little and saves a list.
func ask[R any](rows []R, index *[hwmodel.VectorSize]uint32, n int, shift uint8) {
	size := uint(unsafe.Sizeof(*new(R)))
	if uint(len(rows))*size > cached {
		prefetch(unsafe.Pointer(unsafe.SliceData(rows)), index, min(n, len(index)), uint(shift), size)
	}
}
