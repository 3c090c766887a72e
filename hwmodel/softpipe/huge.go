package softpipe

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page on amd64 and arm64 with 4 KiB pages.
const hugePage = 2 << 20

// big returns a zeroed slice with the given length and capacity. If it is large it
// asks for huge pages: random reads of a table of megabytes otherwise pay for a
// walk through the page tables on top of the cache miss. A hint; refusing it
// changes nothing but speed. T must not hold pointers.
func big[T any](length, capacity int) []T {
	s := make([]T, length, capacity)
	size := uintptr(capacity) * unsafe.Sizeof(*new(T))
	if size < 2*hugePage {
		return s
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), size)
	start := uintptr(unsafe.Pointer(&bytes[0]))
	from := -start % hugePage // to the next boundary
	to := (start+size)/hugePage*hugePage - start
	_ = unix.Madvise(bytes[from:to], unix.MADV_HUGEPAGE)
	return s
}

// more appends n zeroes to a slice of big that was never cut shorter: so what lies
// behind its end is zero.
func more[T any](s []T, n int) []T {
	if len(s)+n > cap(s) {
		s = append(big[T](0, max(2*cap(s), len(s)+n)), s...)
	}
	return s[:len(s)+n]
}
