// Package refpipe is the executable specification of hwmodel.Device: naive
// lookups under one mutex, frames through gopacket, every stage of the documented
// pipeline a few readable lines. It is the oracle for fast devices and the device
// of simulations and replays that need no speed. Nothing here is optimised, and
// nothing should be.
package refpipe
