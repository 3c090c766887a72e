// Package sim is the running simulation: the network interfaces that stand for
// a DPU's ports, the three daemons, and everything that must be gone afterwards.
//
// Up makes it and stays; it is the only process that knows how the parts hang
// together. Down needs nothing but the state directory: it works when every
// process, this one included, was killed. Start and Kill are for people (and
// tests) who want to see what the others do when one is missing: nothing is
// restarted by itself.
//
// Packets never pass through here: the device process gets the descriptors.
package sim
