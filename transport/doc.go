// Package transport is the session between a host's shim and the DPU's agent, and
// the control service that a CLI talks to: the protobuf schema, addresses, limits
// of every message and queue, and thin helpers around gRPC. It decides nothing
// about the state that crosses it.
//
// Addresses are URLs: unix:///path and tcp://127.0.0.1:port. TCP without TLS
// stays on the loopback.
package transport

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative session.proto control.proto
