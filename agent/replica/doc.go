// Package replica is the receiving half of the mirror: it turns a session's
// blocks of netlink messages into the latest row per key, decides which rows are
// in doubt (suspect) and which dumps settle them.
//
// It is pure: no I/O, no goroutine, no clock. The loop feeds what arrives and
// drains what the Replica owes (Changes for the resolver, Dumps for the shim).
//
// The rules: a key notified since a dump began wins over that dump's rows; rows
// are removed for not being mentioned only by a verified dump and only within
// its filter; what was notified but not dumped, and what the kernel may have
// deleted without a word, is suspect until a dump decides; a prediction never
// deletes. A dump is a transaction: nothing of it counts before its verified end.
package replica
