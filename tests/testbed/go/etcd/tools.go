//go:build tools

// Package etcd names the command that the testbed builds from this module's locked dependencies.
package etcd

import _ "go.etcd.io/etcd/server/v3"
