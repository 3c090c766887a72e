// Package sysctl reads the settings that decide about forwarding, and says which
// of them have a value, or a name, that Antiphon does not understand. It must run
// inside the namespace: /proc/sys/net shows the one of the thread that looks.
package sysctl
