//! The real servers that snowmint is tested against: started on ports that are chosen here, stopped with their value.
