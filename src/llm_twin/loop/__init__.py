"""What joins the rooms: from traces to a better twin, where answers come from, and forgetting."""
