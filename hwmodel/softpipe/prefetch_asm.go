//go:build amd64 || arm64

package softpipe

import "unsafe"

// prefetch asks for the cache lines at base + (index[0..n-1] >> shift) * size, n at
// most 256. It reads nothing but index, so wrong addresses do no harm.
//
//go:noescape
func prefetch(base unsafe.Pointer, index *[256]uint32, n int, shift, size uint)
