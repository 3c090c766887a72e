// Package remote is the device contract over a local socket: Serve offers a
// hwmodel.Device, Client is one. Protobuf (device.proto) stays inside this
// package; what it carries is exactly hwmodel's types. Nothing here decides
// anything about a packet or an entry.
package remote

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative device.proto
