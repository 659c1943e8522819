// Command external-secrets is the operator's own controller, with the providers of registered/.
package main

import "github.com/external-secrets/external-secrets/cmd/controller"

func main() {
	controller.Execute()
}
