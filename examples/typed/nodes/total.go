package nodes

// Total multiplies. Its types are written by: emit types graph.router --lang go --output nodes/types.go
func Total(order TotalMessage) TotalResult {
	return TotalResult{Sku: order.Sku, Total: order.Cents * order.Count}
}
