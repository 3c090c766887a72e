// Package pipebench measures softpipe against references that do the same work: a
// C loop for forwarding, gopacket for parsing. Both sides get the same routes and
// the same packets, report the CPU time of one thread, and fail if a packet is
// lost: a loop that drops is fast. No part of a device.
package pipebench
