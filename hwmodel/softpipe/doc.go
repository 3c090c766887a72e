// Package softpipe is the fast software device: the pipeline of hwmodel.Device
// over vectors of up to 256 frames, stage by stage, with hand-written parsing,
// flat lookup tables and no allocation, lock or interface call per packet.
//
// Everything a packet needs is resolved when it is programmed: entries name each
// other by slot, an index into a dense array, and a name without an entry is an
// empty slot (see slots). So a route is one table lookup and one row, and a
// neighbour that changes touches one row however many routes use it.
//
// One lock: Run holds it shared for a vector, Apply exclusively for a batch; that
// is what makes a batch one step for packets. Reading back does not touch it.
//
// It never does packet I/O, knows no netlink word, and starts no goroutine.
package softpipe
