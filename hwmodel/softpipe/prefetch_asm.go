//go:build amd64 || arm64

package softpipe

import "unsafe"

// prefetch asks for the cache lines at base+offset[0..n-1], n at most 256. It reads
// nothing but offset, so wrong addresses do no harm.
//
//go:noescape
func prefetch(base unsafe.Pointer, offset *[256]uint32, n int)
