// Command external-secrets is the operator's own controller, unchanged.
package main

import "github.com/external-secrets/external-secrets/cmd/controller"

func main() {
	controller.Execute()
}
