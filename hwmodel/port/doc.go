// Package port is a software device's packet I/O: endpoints (TAP queues, packet
// sockets, in-memory pairs), the loop that takes frames from them through a
// hwmodel.Pipe, the page that counts them, and the protocol by which a device
// gets its descriptors from the simulation that owns the TAPs.
//
// A port is two endpoints: the wire side and the host side, where traps go up
// and injected frames come down. What a frame means is never decided here; that
// is the pipe's.
package port
